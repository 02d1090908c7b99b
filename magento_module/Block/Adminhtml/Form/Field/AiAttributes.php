<?php

declare(strict_types=1);

namespace Tocsin\BreachNotification\Block\Adminhtml\Form\Field;

use Magento\Config\Block\System\Config\Form\Field\FieldArray\AbstractFieldArray;
use Magento\Framework\Data\Form\Element\AbstractElement;
use Magento\Framework\DataObject;
use Tocsin\BreachNotification\Model\CheckRecord;
use Tocsin\BreachNotification\Model\ResolveSubjects;

/**
 * The table on the admin screen that says which attributes are AI-written.
 */
class AiAttributes extends AbstractFieldArray
{
    private const WIDTH = 'min-width: 4.9em';
    private const WIDTH_OF_CHOICE = 'min-width: 6.6em';

    /**
     * @var Choice[]
     */
    private array $choices = [];

    /**
     * Render the table over the whole width: beside its label, its columns could not be read.
     */
    public function render(AbstractElement $element): string
    {
        return $this->_decorateRowHtml($element, sprintf(
            '<td colspan="5"><strong>%s</strong><div style="overflow-x: auto">%s</div></td>',
            $this->escapeHtml($element->getData('label')),
            $this->_getElementHtml($element)
        ));
    }

    /**
     * @inheritDoc
     */
    protected function _prepareToRender()
    {
        $this->addChoice('entity_type', __('Entity'), ResolveSubjects::KNOWN_TYPES);
        $needed = ['class' => 'input-text required-entry', 'style' => self::WIDTH];
        $this->addColumn('attribute', ['label' => __('Attribute code')] + $needed);
        $this->addColumn('model_id', ['label' => __('Model')] + $needed);
        $this->addColumn('model_version', ['label' => __('Version (empty: each run names it)'), 'style' => self::WIDTH]);
        $this->addChoice('kind', __('Kind'), CheckRecord::KINDS);
        $this->addChoice('sensitivity', __('Sensitivity'), CheckRecord::SENSITIVITIES);
        $this->addColumn('categories', ['label' => __('Categories, with commas'), 'style' => self::WIDTH]);
        $this->addColumn('elements', ['label' => __('Data elements, with commas'), 'style' => self::WIDTH]);
        $this->_addAfter = false;
        $this->_addButtonLabel = (string)__('Add attribute');
    }

    /**
     * @inheritDoc
     */
    protected function _prepareArrayRow(DataObject $row)
    {
        $selected = [];
        foreach ($this->choices as $column => $choice) {
            $selected['option_' . $choice->calcOptionHash((string)$row->getData($column))] = 'selected="selected"';
        }
        $row->setData('option_extra_attrs', $selected);
    }

    /**
     * @param \Magento\Framework\Phrase $label
     * @param string[] $options
     */
    private function addChoice(string $column, $label, array $options): void
    {
        /** @var Choice $choice */
        $choice = $this->getLayout()->createBlock(Choice::class, '', ['data' => ['is_render_to_js_template' => true]]);
        $choice->setExtraParams('style="' . self::WIDTH_OF_CHOICE . '"');
        $choice->setOptions(array_map(
            static fn (string $option) => ['value' => $option, 'label' => __($option)],
            $options
        ));
        $this->choices[$column] = $choice;
        $this->addColumn($column, ['label' => $label, 'renderer' => $choice]);
    }
}
