<?php

declare(strict_types=1);

namespace Tocsin\BreachNotification\Block\Adminhtml\Form\Field;

use Magento\Framework\View\Element\Html\Select;

/**
 * A select box in a table of configuration rows.
 */
class Choice extends Select
{
    public function setInputName(string $name): self
    {
        return $this->setData('name', $name);
    }

    public function setInputId(string $id): self
    {
        return $this->setId($id);
    }
}
