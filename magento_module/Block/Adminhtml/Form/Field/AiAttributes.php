<?php

declare(strict_types=1);

namespace Tocsin\BreachNotification\Block\Adminhtml\Form\Field;

use Magento\Config\Block\System\Config\Form\Field\FieldArray\AbstractFieldArray;
use Magento\Framework\DataObject;
use Tocsin\BreachNotification\Model\CheckRecord;
use Tocsin\BreachNotification\Model\ResolveSubjects;

/**
 * The table on the admin screen that says which attributes are AI-written.
 */
class AiAttributes extends AbstractFieldArray
{
    /**
     * @var Choice[]
     */
    private array $choices = [];

    /**
     * @inheritDoc
     */
    protected function _prepareToRender()
    {
        $this->addChoice('entity_type', __('Entity'), ResolveSubjects::KNOWN_TYPES);
        $this->addColumn('attribute', ['label' => __('Attribute code'), 'class' => 'required-entry']);
        $this->addColumn('model_id', ['label' => __('Model'), 'class' => 'required-entry']);
        $this->addColumn('model_version', ['label' => __('Version (empty: each run names it)')]);
        $this->addChoice('kind', __('Kind'), CheckRecord::KINDS);
        $this->addChoice('sensitivity', __('Sensitivity'), CheckRecord::SENSITIVITIES);
        $this->addColumn('categories', ['label' => __('Categories, with commas')]);
        $this->addColumn('elements', ['label' => __('Data elements, with commas')]);
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
        $choice->setOptions(array_map(
            static fn (string $option) => ['value' => $option, 'label' => __($option)],
            $options
        ));
        $this->choices[$column] = $choice;
        $this->addColumn($column, ['label' => $label, 'renderer' => $choice]);
    }
}
